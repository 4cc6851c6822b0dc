-- Rows pass through these tables, and are deleted with their batch. By default a table is vacuumed when a fifth of it is dead, and
-- with so many pauses that a busy one is not kept up with.
ALTER TABLE row_state SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_limit = 2000);
ALTER TABLE row_data SET (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_limit = 2000);
ALTER TABLE row_output SET (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_limit = 2000);
ALTER TABLE row_receipts SET (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_limit = 2000);
ALTER TABLE completed_keys SET (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_limit = 2000);
ALTER TABLE cached_answers SET (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_limit = 2000);
ALTER TABLE callbacks SET (autovacuum_vacuum_scale_factor = 0.05);

INSERT INTO schema_serves (version, oldest) VALUES (25, 1);
