-- Takes the comment of partition_mark.sql away from {name}.
comment on table {name} is null;
