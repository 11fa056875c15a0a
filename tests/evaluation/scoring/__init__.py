"""Tests of tcm_d2.evaluation.scoring."""
