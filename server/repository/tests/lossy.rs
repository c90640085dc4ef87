//! Two writers whose requests and answers are lost on the way.

use super::*;

/// A directory behind a network: what is asked may not arrive, and an answer may be lost after it
/// was done.
struct Lossy {
    inner: Directory,
    random: Mutex<Random>,
    lost: AtomicUsize,
}

impl Lossy {
    fn asked<T>(&self, done: impl FnOnce() -> Result<T>) -> Result<T> {
        let fate = self.random.lock().unwrap().below(16);
        let lose = |what: &str| {
            self.lost.fetch_add(1, Ordering::SeqCst);
            Err(Error::unavailable(what))
        };
        match fate {
            0 => lose("it did not arrive"),
            1 => done().and_then(|_| lose("its answer was lost")),
            _ => done(),
        }
    }
}

impl Store for Lossy {
    fn place(&self) -> String {
        self.inner.place()
    }
    fn create(&self, name: &str, bytes: Bytes) -> Result<Made> {
        self.asked(|| self.inner.create(name, bytes))
    }
    fn bytes(&self, name: &str) -> Result<u64> {
        self.asked(|| self.inner.bytes(name))
    }
    fn read(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>> {
        self.asked(|| self.inner.read(name, bytes_max))
    }
    fn read_range(&self, name: &str, offset: u64, bytes: u64) -> Result<Vec<u8>> {
        self.asked(|| self.inner.read_range(name, offset, bytes))
    }
    fn list(&self, below: &str) -> Result<Vec<Object>> {
        self.asked(|| self.inner.list(below))
    }
    fn delete(&self, name: &str) -> Result<()> {
        self.asked(|| self.inner.delete(name))
    }
}

/// Until it is done. Between two tries the repository is what it was, or has the snapshot.
fn persistently(stage: &Stage, lossy: &Arc<Lossy>, sample: &Sample) -> Imported {
    loop {
        let tried = stage
            .on(lossy.clone())
            .and_then(|repository| import(&repository, &stage.tars_of_before(sample)));
        match tried {
            Ok(imported) => return imported,
            Err(e) => assert_eq!(e.kind, Kind::Unavailable, "{e}"),
        }
        // What is listed is whole; a snapshot that is not listed yet is all that may be wrong.
        let report = verify(&stage.repository, &[], Depth::Whole).unwrap();
        let is_expected = |what: &str| what.starts_with("no catalogue lists it");
        assert!(report.problems.iter().all(|problem| is_expected(&problem.what)), "{report}");
    }
}

#[test]
fn whatever_is_lost_on_the_way_two_writers_store_every_snapshot_once() {
    let mut lost = 0;
    for seed in 0..4u64 {
        let stage = if seed % 4 == 3 { Stage::sealed() } else { Stage::new() };
        let lossy = |nth| {
            let random = Mutex::new(Random::seeded(2 * seed + nth));
            Arc::new(Lossy {
                inner: Directory::new(stage.root()),
                random,
                lost: Default::default(),
            })
        };
        let writers = [lossy(0), lossy(1)];
        let samples = [sample(1, 1), sample(2, 2), sample(3, 2)];
        for (stored, sample) in (1..).zip(&samples) {
            stage.tars(sample);
            let roots = thread::scope(|scope| {
                let write = |lossy| {
                    let stage = &stage;
                    scope.spawn(move || persistently(stage, lossy, sample).root)
                };
                let both: Vec<_> = writers.iter().map(write).collect();
                both.into_iter().map(|writer| writer.join().unwrap()).collect::<Vec<_>>()
            });
            assert_eq!(roots[0], roots[1]);
            assert_eq!(stage.repository.listed().unwrap().len(), stored);
        }
        samples.iter().for_each(|sample| stage.comes_back(sample));
        stage.is_sound();
        assert_eq!(status(&stage.repository).unwrap().unnamed, 0);
        lost += writers.iter().map(|lossy| lossy.lost.load(Ordering::SeqCst)).sum::<usize>();
    }
    assert!(lost > 40, "only {lost} requests were lost");
}
