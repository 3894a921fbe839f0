"""Generador del ejemplo de soporte de Voltaria (empresa ficticia)."""
