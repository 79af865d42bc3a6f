-- Transactions of this database since it was made, those that were rolled back included. Changes nothing.
select (xact_commit + xact_rollback)::bigint from pg_stat_database where datname = current_database()
