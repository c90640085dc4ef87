// Measure is the Go side of clients/bench.py: it downloads a part, or counts calls a second.
package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"devicedb.example/go/devicedb"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run: download ENDPOINTS UUID NODE PATH, or get|put ENDPOINTS SITE KEY SECONDS.
func run(ctx context.Context, args []string) error {
	if len(args) != 5 {
		return fmt.Errorf("%d arguments, not 5", len(args))
	}
	client, err := devicedb.Open(args[1], devicedb.Options{})
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	if args[0] == "download" {
		node, err := strconv.ParseUint(args[3], 10, 64)
		if err != nil {
			return err
		}
		_, err = client.Snapshots.Download(ctx, args[2], node, args[4])
		return err
	}
	seconds, err := strconv.ParseFloat(args[4], 64)
	if err != nil {
		return err
	}
	began, count := time.Now(), 0
	for time.Since(began).Seconds() < seconds {
		if args[0] == "put" {
			_, err = client.Put(ctx, args[2], []byte(args[3]), []byte("value"))
		} else {
			_, err = client.Get(ctx, args[2], []byte(args[3]))
		}
		if err != nil {
			return err
		}
		count++
	}
	fmt.Println(float64(count) / time.Since(began).Seconds())
	return nil
}
