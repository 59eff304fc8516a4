"""What any module may use and none is about."""
