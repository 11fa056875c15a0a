"""Tests of tcm_d2.serve."""
