package main

import (
	"fmt"
	"strconv"
	"strings"
)

// byteSize is a number of bytes as a flag: digits with an optional K, M, G or
// T, powers of 1024 as in casync's options. 0 means no limit.
type byteSize int64

func (s *byteSize) String() string {
	if *s == 0 {
		return ""
	}
	return strconv.FormatInt(int64(*s), 10)
}

// Type names the kind of value in help texts.
func (s *byteSize) Type() string { return "SIZE" }

func (s *byteSize) Set(text string) error {
	digits := strings.TrimRight(text, "KMGTkmgt")
	suffix := strings.ToUpper(text[len(digits):])
	shift := map[string]uint{"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
	by, ok := shift[suffix]
	n, err := strconv.ParseInt(digits, 10, 64)
	if !ok || err != nil || n < 0 || n<<by>>by != n {
		return fmt.Errorf("%q is not a size such as 4096, 64K or 2M", text)
	}
	*s = byteSize(n << by)
	return nil
}

// human writes a number of bytes for people, in decimal units.
func human(n int64) string {
	switch {
	case n < 1000:
		return strconv.FormatInt(n, 10) + " B"
	case n < 1000*1000:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	case n < 1000*1000*1000:
		return fmt.Sprintf("%.2f MB", float64(n)/1e6)
	default:
		return fmt.Sprintf("%.2f GB", float64(n)/1e9)
	}
}

// count writes how many there are of something.
func count(n int64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
