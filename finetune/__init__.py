"""Recipes that finetune converted face models for facial expressions."""
