"""What Airflow's UI gains. Found through the entry point `airflow.plugins`."""
