"""What an image goes through: linear maps and their adjoints, point-wise powers. `medfuse.physics` exports them."""
