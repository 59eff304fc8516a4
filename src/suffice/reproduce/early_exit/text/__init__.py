"""Text experiment of paper one: classifiers with exits, trained and measured on the intents of CLINC150."""
