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
	var host string
	var login *Login // of the entry; nil outside of one
	end := func() {
		if login != nil && host != "" {
			if _, ok := logins[host]; !ok { // the first one counts
				logins[host] = *login
			}
		}
		host, login = "", nil
	}
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		words := strings.Fields(lines[i])
		for len(words) > 0 && words[0][0] != '#' {
			key := words[0]
			if key == "macdef" { // up to an empty line
				for i+1 < len(lines) && strings.TrimSpace(lines[i+1]) != "" {
					i++
				}
				break
			}
			if key == "default" {
				end()
				login, words = &Login{}, words[1:]
				continue
			}
			for len(words) < 2 { // the value is on a line below
				if i++; i == len(lines) {
					return nil, fmt.Errorf("httpstore: netrc: nothing after %q", key)
				}
				words = append(words, strings.Fields(lines[i])...)
			}
			value := words[1]
			words = words[2:]
			switch {
			case key == "machine":
				end()
				host, login = strings.ToLower(value), &Login{}
			case login == nil:
				return nil, fmt.Errorf("httpstore: netrc: line %d: %q is of no machine", i+1, key)
			case key == "login":
				login.User = value
			case key == "password":
				login.Password = value
			case key != "account":
				return nil, fmt.Errorf("httpstore: netrc: line %d: unknown word", i+1)
			}
		}
	}
	end()
	return logins, nil
}
