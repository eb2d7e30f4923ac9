"""Recipes, one YAML per arm, installed as the data package `recsys_configs`."""
