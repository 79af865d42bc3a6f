-- Drops a table, {name}, that was taken off. Repeatable.
drop table if exists {name};
