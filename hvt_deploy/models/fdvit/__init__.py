"""FDViT: specification, reference form and deployed form."""
