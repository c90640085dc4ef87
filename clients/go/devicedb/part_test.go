package devicedb_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"devicedb.example/go/devicedb"
)

func TestASealedPartIsVerifiedWithoutTheKeyToItsRows(t *testing.T) {
	golden := func(name string) string { return filepath.Join("../../../tests/golden/snapshot", name) }
	plain, err := devicedb.Verify(golden("part-3.tar"))
	if err != nil || plain[0].SealedTo != nil {
		t.Fatal(plain, err)
	}
	recipient, err := os.ReadFile(golden("age-recipient.txt"))
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := devicedb.Verify(golden("part-4.tar"))
	if err != nil || !slices.Equal(sealed[0].SealedTo, []string{strings.TrimSpace(string(recipient))}) {
		t.Fatal(sealed, err)
	}
	tar, err := os.ReadFile(golden("part-4.tar"))
	if err != nil {
		t.Fatal(err)
	}
	tar[len(tar)-1530] ^= 1
	changed := filepath.Join(t.TempDir(), "changed.tar")
	if err := os.WriteFile(changed, tar, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := devicedb.Verify(changed); !errors.Is(err, devicedb.ErrCorrupt) || !strings.Contains(err.Error(), "are not those that were written") {
		t.Fatal(err)
	}
}
