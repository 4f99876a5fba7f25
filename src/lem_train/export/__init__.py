"""Models and lessons in the forms that others use, held against what they come from."""
