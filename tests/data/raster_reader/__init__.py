"""Tests of tcm_d2.data.raster_reader."""
