"""DFvT: specification, reference form and deployed form."""
