"""What several test files share: small catalogues, encoders, models, and runners."""
