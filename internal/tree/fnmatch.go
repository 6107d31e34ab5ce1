package tree

import "strings"

// fnmatch reports whether a name matches a shell pattern as fnmatch(3) has it
// with FNM_PERIOD in the C locale: "*", "?", bracket expressions and backslash
// escapes; a leading period is matched only by a period.
func fnmatch(pattern, name string) bool {
	if strings.HasPrefix(name, ".") && !strings.HasPrefix(pattern, ".") && !strings.HasPrefix(pattern, `\.`) {
		return false
	}
	// star and mark are where to go on when a guess of what the last "*"
	// stands for was wrong.
	p, n, star, mark := 0, 0, -1, 0
	for n < len(name) {
		if p < len(pattern) && pattern[p] == '*' {
			star, mark = p, n
			p++
			continue
		}
		if p < len(pattern) {
			if size, ok := matchOne(pattern[p:], name[n]); ok {
				p, n = p+size, n+1
				continue
			}
		}
		if star < 0 {
			return false
		}
		mark++
		p, n = star+1, mark
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// matchOne matches one byte against the first element of a pattern, and returns
// that element's length.
func matchOne(pattern string, c byte) (size int, ok bool) {
	switch pattern[0] {
	case '?':
		return 1, true
	case '\\':
		if len(pattern) < 2 {
			return 1, false // nothing matches a lone backslash
		}
		return 2, pattern[1] == c
	case '[':
		if size, ok, closed := matchBracket(pattern, c); closed {
			return size, ok
		}
	}
	return 1, pattern[0] == c
}

// matchBracket matches a byte against a bracket expression. closed is false if
// the bracket stands for itself because nothing closes it.
func matchBracket(pattern string, c byte) (size int, ok, closed bool) {
	i := 1
	negate := i < len(pattern) && (pattern[i] == '!' || pattern[i] == '^')
	if negate {
		i++
	}
	for first := true; i < len(pattern); first = false {
		if pattern[i] == ']' && !first {
			return i + 1, ok != negate, true
		}
		if class, n := charClass(pattern[i:]); n > 0 {
			ok = ok || inClass(class, c)
			i += n
			continue
		}
		lo, n := bracketByte(pattern[i:])
		i += n
		hi := lo
		if i+1 < len(pattern) && pattern[i] == '-' && pattern[i+1] != ']' {
			hi, n = bracketByte(pattern[i+1:])
			i += 1 + n
		}
		ok = ok || lo <= c && c <= hi
	}
	return 0, false, false
}

// bracketByte returns the byte that begins a bracket expression's rest, which
// may be escaped, and its length.
func bracketByte(s string) (byte, int) {
	if s[0] == '\\' && len(s) > 1 {
		return s[1], 2
	}
	return s[0], 1
}

// charClass returns the class in s if it begins with one, as "[:alpha:]" does,
// and its length.
func charClass(s string) (string, int) {
	rest, ok := strings.CutPrefix(s, "[:")
	if !ok {
		return "", 0
	}
	class, _, ok := strings.Cut(rest, ":]")
	if !ok {
		return "", 0
	}
	return class, len(class) + 4
}

func inClass(class string, c byte) bool {
	lower, upper, digit := 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9'
	switch class {
	case "alpha":
		return lower || upper
	case "lower":
		return lower
	case "upper":
		return upper
	case "digit":
		return digit
	case "alnum":
		return lower || upper || digit
	case "xdigit":
		return digit || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
	case "space":
		return c == ' ' || '\t' <= c && c <= '\r'
	case "blank":
		return c == ' ' || c == '\t'
	case "punct":
		return '!' <= c && c <= '~' && !lower && !upper && !digit
	case "print":
		return ' ' <= c && c <= '~'
	case "graph":
		return '!' <= c && c <= '~'
	case "cntrl":
		return c < ' ' || c == 0x7f
	}
	return false
}
