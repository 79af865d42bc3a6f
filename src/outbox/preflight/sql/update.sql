-- Whether PostgreSQL would take an update of events: not when a publication needs a replica identity that the table
-- does not have. EXPLAIN goes as far as to find out, changes nothing and fires no trigger.
explain (costs off) update outbox_events set status = 'PENDING' where id = 0
