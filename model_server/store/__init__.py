"""PostgreSQL: predictions, images, callbacks and the queue, and every statement that touches them."""
