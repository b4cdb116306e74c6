"""What Armory's configurations name: dataset, model, seeding and metrics. Only this package imports Armory."""
