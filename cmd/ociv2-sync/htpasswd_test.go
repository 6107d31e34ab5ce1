package main

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

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

// Who is taken out of the files of users and tokens is out, without a restart; a file
// that is damaged meanwhile changes nothing.
func TestAccessReloads(t *testing.T) {
	dir := t.TempDir()
	users, tokenFile := filepath.Join(dir, "users"), filepath.Join(dir, "tokens")
	n := int64(0)
	write := func(path, text string) {
		t.Helper()
		must(t, os.WriteFile(path, []byte(text), 0o600))
		n++
		when := time.Unix(1e9+n, 0)
		must(t, os.Chtimes(path, when, when))
	}
	line := func(user string) string {
		t.Helper()
		hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
		must(t, err)
		return user + ":" + string(hash) + "\n"
	}
	write(users, line("a")+line("b"))
	write(tokenFile, "one two\nthree\n")
	u := reloading(t, slog.New(slog.DiscardHandler), func() (*htpasswd, error) { return readHtpasswd(users) }, users)
	k := reloading(t, slog.New(slog.DiscardHandler), func() (tokens, error) { return readTokens(tokenFile) }, tokenFile)
	check := func(a, b, two, three bool) {
		t.Helper()
		u.looked, k.looked = time.Time{}, time.Time{}
		if u.get().login("a", "secret") != a || u.get().login("b", "secret") != b || k.get().has("two") != two || k.get().has("three") != three {
			t.Error("the wrong ones are let in")
		}
		if k.get().has("") || k.get().has("one two") {
			t.Error("what is no token is let in")
		}
	}
	check(true, true, true, true)
	write(users, line("b"))
	write(tokenFile, "one three\n")
	check(false, true, false, true)
	write(users, "damaged")
	write(tokenFile, "")
	check(false, true, false, true)
	must(t, errors.Join(os.Remove(users), os.Remove(tokenFile)))
	check(false, true, false, true)
	write(users, line("a"))
	write(tokenFile, "two")
	check(true, false, true, false)
}
