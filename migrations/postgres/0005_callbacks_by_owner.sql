-- Owners take turns at deliveries, and so do the receivers of each.
CREATE INDEX callbacks_due_by_owner ON callbacks (owner, (coalesce(receiver, url)), next_at) WHERE status = 0;
DROP INDEX callbacks_due_by_receiver;

INSERT INTO schema_serves (version, oldest) VALUES (5, 1);
