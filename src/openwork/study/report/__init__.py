"""The page that shows a study: charts, tables, and how it was measured."""
