"""The way back, a module for each kind. Nothing live is touched before what replaces it is proven."""
