package main

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/crypto/bcrypt"
)

func TestHtpasswd(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	must(t, err)
	path := filepath.Join(t.TempDir(), "users")
	must(t, os.WriteFile(path, []byte("# users\n\nwriter:"+string(hash)+"\n"), 0o600))
	h, err := readHtpasswd(path)
	must(t, err)
	for range 2 { // the second time it is known
		if !h.login("writer", "secret") || h.login("writer", "wrong") || h.login("nobody", "secret") || h.login("", "") {
			t.Error("the wrong ones are let in")
		}
	}
	for _, bad := range []string{"", "writer", "writer:plain", ":" + string(hash), "writer:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g="} {
		must(t, os.WriteFile(path, []byte(bad), 0o600))
		if _, err := readHtpasswd(path); exitCode(err) != exitUsage {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
