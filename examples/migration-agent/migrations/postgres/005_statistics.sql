-- requires: 004_orders_by_customer

ANALYZE orders;
