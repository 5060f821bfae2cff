"""The checks of `standfast doctor`, each by itself: one that fails hides no other."""
