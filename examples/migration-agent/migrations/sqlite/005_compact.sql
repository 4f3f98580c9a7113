-- No transaction takes it: it is done by itself, and may as well be done again.
-- requires: 003_spent, 004_orders_by_customer

VACUUM;
