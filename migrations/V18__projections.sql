-- A projection may have positions of its own and park an event that others have folded, so it is part of what makes a row unique. Null
-- stands for all projections of the group and counts as a value here, which no primary key allows.
-- Positions come first: a fold changes them before it parks anything, so none is half way when the second index is built.
create unique index consumer_partitions_place on consumer_partitions (consumer_group, topic, partition, projection) nulls not distinct;
create unique index consumer_parked_event on consumer_parked (consumer_group, event_id, projection) nulls not distinct;

-- Without a primary key, logical replication needs whole rows to find one again.
alter table consumer_partitions drop constraint consumer_partitions_pkey, replica identity full;
alter table consumer_parked drop constraint consumer_parked_pkey, replica identity full;
