"""What people look at: charts by matplotlib, pages by Jinja2, samples as files. Imported lazily, both."""
