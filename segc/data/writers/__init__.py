"""Labels written in the formats that segc reads, and what each of them cannot carry."""
