module devicedb.example/go

go 1.25.0
