"""Generated from proto/ by tools/protogen.py. Do not edit."""
