"""Paper one, after training: posterior, link, temperature and ensemble for every exit."""
