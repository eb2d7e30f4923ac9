. /tmp/w/main.env
cd /tmp/w/auc
for s in 0 1 2 3 4; do for k in recsys fbgemm; do nice -n 10 recsys train $k.yaml --data /work/shared/data/criteo80k.parquet --seed $s --runs runs_$k --prepared prep --json 2>/dev/null > out_${k}_$s.json; done; done
