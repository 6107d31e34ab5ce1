package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"strings"
	"sync"

	"golang.org/x/crypto/bcrypt"
)

// htpasswd checks users and passwords against a file of the kind that htpasswd -B
// writes.
type htpasswd struct {
	hashes map[string]string
	none   string // compared with where there is no such user, for the same time

	mu    sync.Mutex
	known map[[sha256.Size]byte]bool // what has been right: bcrypt is slow on purpose
}

// readHtpasswd reads such a file. Other hashes than bcrypt's are refused.
func readHtpasswd(path string) (*htpasswd, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	h := &htpasswd{hashes: make(map[string]string), known: make(map[[sha256.Size]byte]bool)}
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		user, hash, ok := strings.Cut(line, ":")
		if _, err := bcrypt.Cost([]byte(hash)); !ok || user == "" || err != nil {
			return nil, usageError{fmt.Errorf("%s: line %d is not USER:HASH with a hash of bcrypt, as htpasswd -B writes", path, n)}
		}
		h.hashes[user], h.none = hash, hash
	}
	if len(h.hashes) == 0 {
		return nil, usageError{fmt.Errorf("%s has no user", path)}
	}
	return h, nil
}

// login reports whether the password is the user's.
func (h *htpasswd) login(user, password string) bool {
	key := sha256.Sum256([]byte(user + "\x00" + password))
	h.mu.Lock()
	known := h.known[key]
	h.mu.Unlock()
	if known {
		return true
	}
	hash, ok := h.hashes[user]
	if !ok {
		hash = h.none
	}
	if err := bcrypt.CompareHashAndPassword([]byte(hash), []byte(password)); err != nil || !ok {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.known[key] = true
	return true
}
