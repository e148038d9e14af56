"""Analysis of graphs: roles and stages of nodes, multiply-accumulates, sums by stage and role."""
