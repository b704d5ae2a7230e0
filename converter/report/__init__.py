"""report.html of a conversion: one page that holds everything it shows, and needs neither network nor library."""
