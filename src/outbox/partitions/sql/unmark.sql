-- Takes the comment of mark.sql away from {name}.
comment on table {name} is null;
