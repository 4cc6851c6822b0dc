-- Differs by necessity: nothing is vacuumed here in the background. Deleted records' pages are used again.
INSERT INTO schema_serves (version, oldest) VALUES (25, 1);
