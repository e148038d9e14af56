"""Being here puts this folder on the path: tests share the modules beside this file."""
