package chunk

import "testing"

func TestSumAll(t *testing.T) {
	data := noise(7, 300_000)
	var chunks [][]byte
	for n := 1; len(data) > n; n += 1000 {
		chunks, data = append(chunks, data[:n]), data[n:]
	}
	ids := make([]ID, len(chunks))
	for _, a := range []Algorithm{SHA512_256, SHA256} {
		a.SumAll(ids, chunks)
		for i, b := range chunks {
			if want := a.Sum(b); ids[i] != want {
				t.Errorf("%v, chunk %d: %s, want %s", a, i, ids[i], want)
			}
		}
	}
}
