"""Small helpers without knowledge of networks or uncertainty, for use in any module."""
