-- For one attempt, a transaction: keeps vacuum and other changes of the table away, which makes no writer wait, so that
-- later nobody but writers has to be waited for. An autovacuum gives way after a second. Whatever follows waits for its
-- locks no longer than a writer may be made to wait, and if it takes long with them, something is not as thought and
-- everything is taken back.
set local lock_timeout = '10s';
lock table outbox_events in share update exclusive mode;
set local lock_timeout = '200ms';
set local statement_timeout = '2s';
