"""Pictures and tables of models and runs; torch and matplotlib may be imported here."""
