// Package testutil is what the tests of several packages share: the programs a
// test needs (Need, NeedRoot), a real web server that counts (StartNginx), a
// small tree with everything a file system can hold (BuildTree), and the
// comparison of two trees attribute by attribute (CompareTrees), and a test binary that
// is an ssh (ActAsSSH).
//
// CompareTrees shares no code with internal/tree or toc, so that a mistake made
// there cannot hide itself here. Only tests import this package; internal/archtest
// checks it.
package testutil
