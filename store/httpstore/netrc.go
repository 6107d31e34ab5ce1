package httpstore

import (
	"fmt"
	"strings"
)

// Login is the user and the password for a host.
type Login struct{ User, Password string }

// ParseNetrc returns the logins in a netrc file, by host. Its default entry and
// its macros are left out: a password goes to the host that it is for.
func ParseNetrc(text string) (map[string]Login, error) {
	logins := make(map[string]Login)
	words := netrcWords{lines: strings.Split(text, "\n")}
	var login *Login // of the entry; nil outside of one
	var host string
	end := func() {
		if _, ok := logins[host]; host != "" && !ok { // the first one counts
			logins[host] = *login
		}
	}
	for key, ok := words.key(); ok; key, ok = words.key() {
		switch key {
		case "macdef":
			words.skipMacro()
			continue
		case "default":
			end()
			host, login = "", &Login{}
			continue
		}
		value, ok := words.value()
		switch {
		case !ok:
			return nil, fmt.Errorf("httpstore: netrc: nothing after %q", key)
		case key == "machine":
			end()
			host, login = strings.ToLower(value), &Login{}
		case login == nil:
			return nil, fmt.Errorf("httpstore: netrc: line %d: %q is of no machine", words.next, key)
		case key == "login":
			login.User = value
		case key == "password":
			login.Password = value
		case key != "account":
			return nil, fmt.Errorf("httpstore: netrc: line %d: unknown word", words.next)
		}
	}
	end()
	return logins, nil
}

// netrcWords are the words of a netrc file, in their order.
type netrcWords struct {
	lines []string
	next  int      // the line to be read next, from 0; of the one being read, from 1
	words []string // what is left of the line being read
}

// line goes to the next line. It reports whether there is one.
func (w *netrcWords) line() bool {
	if w.next == len(w.lines) {
		return false
	}
	w.words = strings.Fields(w.lines[w.next])
	w.next++
	return true
}

// key returns the next word, past comments. It reports whether there is one.
func (w *netrcWords) key() (string, bool) {
	for len(w.words) == 0 || w.words[0][0] == '#' {
		if !w.line() {
			return "", false
		}
	}
	return w.value()
}

// value returns the next word, whatever it begins with. It reports whether there is one.
func (w *netrcWords) value() (string, bool) {
	for len(w.words) == 0 {
		if !w.line() {
			return "", false
		}
	}
	word := w.words[0]
	w.words = w.words[1:]
	return word, true
}

// skipMacro passes over what follows macdef, up to an empty line.
func (w *netrcWords) skipMacro() {
	for w.line() && len(w.words) > 0 {
	}
	w.words = nil
}
