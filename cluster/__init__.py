"""The Ray side: thin wrappers that spread the functions of rec."""
