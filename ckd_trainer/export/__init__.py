"""Students for production: plain models out of dynamic students, and the best one for a budget."""
