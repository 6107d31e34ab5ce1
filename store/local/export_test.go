package local

// NameFiles has the store do what it does on a file system that has no files
// without a name.
func (s *Store) NameFiles() { s.tmpfile = 0 }
